"""Files of any origin read without running code from them: `read_published` says what is inside, or why not."""

from hyperinverter.pretrained.reading.files import PublishedFile, read_published
from hyperinverter.pretrained.reading.nvidia_pkl import NetworkStub

__all__ = ["NetworkStub", "PublishedFile", "read_published"]
