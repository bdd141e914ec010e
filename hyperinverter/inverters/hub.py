"""Model folders on the Hugging Face hub: fetched by name, and put there. Needs the extra `hub` (huggingface_hub).

HF_ENDPOINT, HF_TOKEN, HF_HOME and HF_HUB_OFFLINE are honoured. Only files that are read as data are fetched or sent.
"""

import os
import re
from fnmatch import fnmatch
from importlib.util import find_spec
from inspect import isabstract
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeGuard

from hyperinverter.checkpoint import read_model
from hyperinverter.config.schema import DomainConfig
from hyperinverter.models.stylegan2 import Generator
from hyperinverter.pretrained.files import search_folders
from hyperinverter.utils.errors import UserError, reason_of

REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+")
FILES = ("*.safetensors", "README.md", "*.png", "*.jpg", "LICENSE*", "licences/*")  # `*` goes into folders too
CARD = """---
library_name: hyperinverter
pipeline_tag: image-to-image
tags: [stylegan2, gan-inversion]
---

# {name}

A HyperInverter model (domain {domain}, {resolution} px). Say here what it was trained on, and under which terms.

```python
import hyperinverter
model = hyperinverter.{method}.from_pretrained("{repository}")
inversion = model.invert("photo.jpg")
```
"""


class OnHub:
    """What lets a method's models travel over the hub. The class beside it gives `load`, `set_up` and the fields."""

    domain: DomainConfig
    generator: Generator
    folder: Path
    model_name: str
    generator_hash: str
    if TYPE_CHECKING:

        @classmethod
        def load(cls, source: str | Path | DomainConfig) -> Self: ...

        def set_up(self, *args: Any, **settings: Any) -> Self: ...

    @classmethod
    def from_pretrained(
        cls,
        source: str | Path,
        *,
        revision: str | None = None,
        token: str | None = None,
        cache_dir: str | Path | None = None,
        local_files_only: bool = False,
        **settings: Any,
    ) -> Self:
        """A ready method from a model folder, or from OWNER/REPO on the Hugging Face hub.

        Args:
            source: a model folder by path or name, or a repository that `push_to_hub` wrote.
            revision: branch, tag or commit; None: main.
            token: of the hub; None: the one that is logged in here, if any.
            cache_dir: where to keep what is fetched; None: huggingface_hub's own cache.
            local_files_only: True fetches nothing and takes what was fetched before.
            settings: device, precision, compile, resolution, projection, refine, as for `hyperinverter.load`.
        Raises:
            FileNotFoundError, UserError: as `hyperinverter.load`; or the hub does not have it.
        """
        if isabstract(cls):
            raise TypeError(f"{cls.__name__} is no method; call from_pretrained on one, such as HyperInverter")
        if not is_on_hub(source):
            return cls.load(source).set_up(**settings)
        where = {"revision": revision, "token": token, "cache_dir": cache_dir, "local_files_only": local_files_only}
        model = cls.load(fetch_model(str(source), **where))
        model.model_name = str(source)
        return model.set_up(**settings)

    def push_to_hub(
        self,
        repository: str,
        *,
        private: bool = False,
        token: str | None = None,
        revision: str | None = None,
        commit_message: str = "Upload a HyperInverter model",
    ) -> str:
        """Put the model's folder (parts, directions, card, pictures) onto the Hugging Face hub; returns its address.

        The terms of everything in the folder must allow that: of `ffhq_mobile` the generator is others', for one.

        Args:
            repository: OWNER/REPO, which is made if it is not there; a folder without a README.md gets one.
            private, token, revision, commit_message: as of huggingface_hub.
        Raises:
            UserError: the extra `hub` is missing, the folder does not hold the whole model, or the hub refuses.
        """
        _check_installed()
        if not REPOSITORY.fullmatch(repository):
            raise UserError(f"repository is {repository!r}; write OWNER/NAME")
        folder, file = self.folder, self.folder / "generator.safetensors"
        if not file.is_file() or read_model(file, "generator").hash != self.generator_hash:
            raise UserError(
                f"{folder}: does not hold this model's generator; put all of its parts into one folder first"
            )
        from huggingface_hub import CommitOperationAdd, HfApi

        where = {"repository": repository, "domain": self.domain.name, "resolution": self.generator.resolution}
        card = CARD.format(name=repository.partition("/")[2], method=type(self).__name__, **where)
        files = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
        wanted = {name: path for name, path in files.items() if any(fnmatch(name, pattern) for pattern in FILES)}
        content = {"README.md": card.encode()} | wanted
        api = HfApi(endpoint=os.environ.get("HF_ENDPOINT"), token=token)
        try:
            api.create_repo(repository, private=private, exist_ok=True)
            done = api.create_commit(
                repository,
                [CommitOperationAdd(name, what) for name, what in sorted(content.items())],
                revision=revision,
                commit_message=commit_message,
            )
        except Exception as error:  # the hub's errors and its HTTP client's have no common class
            raise UserError(f"{repository}: the Hugging Face hub refused the upload ({reason_of(error)})") from error
        return str(done.commit_url)


def is_on_hub(source: object) -> TypeGuard[str]:
    """Whether this is OWNER/REPO rather than a file or folder here."""
    if not isinstance(source, str) or not REPOSITORY.fullmatch(source):
        return False
    return not any((root / source).exists() for root in (Path(), *search_folders()))


def fetch_model(repository: str, **where: Any) -> Path:
    """The model folder OWNER/REPO, in huggingface_hub's cache; what is there already is not fetched again.

    `where`: revision, token, cache_dir, local_files_only, as of `from_pretrained`. Raises UserError: huggingface_hub is
    not installed, or the repository cannot be fetched or is no model folder.
    """
    _check_installed()
    from huggingface_hub import snapshot_download

    try:
        endpoint = os.environ.get("HF_ENDPOINT")
        result = snapshot_download(repository, allow_patterns=list(FILES), endpoint=endpoint, **where)
    except Exception as error:  # as above
        raise UserError(
            f"{repository}: cannot be fetched from the Hugging Face hub ({reason_of(error)}). If a folder of this name "
            f"was meant, it is not here"
        ) from error
    if not (Path(result) / "generator.safetensors").is_file():
        raise UserError(f"{repository}: holds no generator.safetensors; give a repository that push_to_hub wrote")
    return Path(result)


def _check_installed() -> None:
    if find_spec("huggingface_hub") is None:
        raise UserError("huggingface_hub is not installed, which talks to the hub; pip install 'hyperinverter[hub]'")
