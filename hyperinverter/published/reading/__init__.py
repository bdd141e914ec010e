"""Files of any origin read without running code from them: `read_published` says what is inside, or why not."""

from hyperinverter.published.reading.files import PublishedFile, read_published
from hyperinverter.published.reading.nvidia_pkl import NetworkStub
from hyperinverter.published.reading.openvino_ir import IrLayer, IrNetwork

__all__ = ["IrLayer", "IrNetwork", "NetworkStub", "PublishedFile", "read_published"]
