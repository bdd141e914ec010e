"""Speed and memory: ours beside a rendering of the released code, and the page docs/performance.md."""
