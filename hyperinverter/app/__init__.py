"""The app: a photo is inverted once, then sliders edit it in a browser.

What it does is in `editor` and `session`, which know no web; `web` passes it on, and `page.html`, `page.css`,
`page.js` are what the browser gets.
"""
