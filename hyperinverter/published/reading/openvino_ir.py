"""OpenVINO's IR (an .xml graph beside a .bin of numbers) as inert data: layers, edges and constants, nothing run.

The graph comes as a stream of events, so that no tree of unknown size is built; a document type or an entity is refused
before it can grow. A constant is a place in the .bin, which has to lie in it. Format: OpenVINO's documentation,
"OpenVINO IR format", versions 10 and 11.
"""

import math
import re
from dataclasses import dataclass, field
from xml.parsers import expat

import torch
from torch import Tensor

from hyperinverter.published.reading.refusal import Budget, UnreadableFile, shown
from hyperinverter.published.reading.tensors import raw_tensor

MOST_XML_BYTES = 2**22  # a generator of 940 layers takes 0.4 MB
MOST_ELEMENTS = 200_000  # that one has 11,000
MOST_DEPTH = 16  # that one has 6
MOST_ATTRIBUTES = 64  # of one element; that one has 10
MOST_DIMENSIONS = 8
TYPES = {"f32": torch.float32, "i64": torch.int64, "i32": torch.int32}  # weights; sizes and axes
CONSTANT = "Const"


@dataclass
class IrLayer:
    """One operation; `inputs` is port -> number of the layer behind it, `tensor` the numbers of a constant."""

    number: int
    name: str
    kind: str
    attributes: dict[str, str] = field(default_factory=dict)
    inputs: dict[int, int] = field(default_factory=dict)
    tensor: Tensor | None = None


@dataclass
class IrNetwork:
    """A graph as the file has it; `used_by` is layer number -> numbers of the layers that take its output."""

    name: str
    layers: dict[int, IrLayer] = field(default_factory=dict)
    used_by: dict[int, list[int]] = field(default_factory=dict)

    def of_kind(self, kind: str) -> list[IrLayer]:
        return [layer for layer in self.layers.values() if layer.kind == kind]

    def source(self, layer: IrLayer, port: int) -> IrLayer | None:
        """The layer behind an input; None where nothing is connected."""
        return self.layers[layer.inputs[port]] if port in layer.inputs else None

    def users(self, layer: IrLayer) -> list[IrLayer]:
        return [self.layers[number] for number in self.used_by.get(layer.number, ())]


class _Parser:
    """Takes expat's events. Of all elements only layers, their `data`, and edges matter."""

    def __init__(self) -> None:
        self.network: IrNetwork | None = None
        self.elements = 0
        self.path: list[str] = []
        self._layer: IrLayer | None = None

    def start(self, tag: str, attributes: dict[str, str]) -> None:
        self.elements += 1
        if self.elements > MOST_ELEMENTS or len(self.path) >= MOST_DEPTH:
            raise UnreadableFile(f"its graph has more than {MOST_ELEMENTS} elements or {MOST_DEPTH} levels")
        if len(attributes) > MOST_ATTRIBUTES:
            raise UnreadableFile(f"an element of its graph has {len(attributes)} attributes")
        self.path.append(tag)
        if self.network is None:
            if tag != "net":
                raise UnreadableFile(f"its graph begins with <{shown(tag)}>, expected OpenVINO's <net>")
            self.network = IrNetwork(attributes.get("name", ""))
        elif self.path == ["net", "layers", "layer"]:
            number = _whole(attributes, "id")
            if number in self.network.layers:
                raise UnreadableFile(f"its graph has layer {number} twice")
            self._layer = IrLayer(number, attributes.get("name", ""), attributes.get("type", ""))
            self.network.layers[number] = self._layer
        elif self.path == ["net", "layers", "layer", "data"] and self._layer:
            self._layer.attributes = dict(attributes)
        elif self.path == ["net", "edges", "edge"]:
            self._edge(attributes)

    def end(self, tag: str) -> None:
        self.path.pop()

    def refuse_declaration(self, *_: object) -> None:
        raise UnreadableFile("its graph declares a document type or an entity, which no IR does")

    def _edge(self, attributes: dict[str, str]) -> None:
        assert self.network is not None
        source, target = (_whole(attributes, name) for name in ("from-layer", "to-layer"))
        port = _whole(attributes, "to-port")
        if source not in self.network.layers or target not in self.network.layers:
            raise UnreadableFile(f"its graph joins layer {source} to {target}, and has not both")
        if port in self.network.layers[target].inputs:
            raise UnreadableFile(f"input {port} of layer {target} of its graph has two sources")
        self.network.layers[target].inputs[port] = source
        self.network.used_by.setdefault(source, []).append(target)


def read_ir(xml: memoryview, numbers: memoryview, budget: Budget) -> IrNetwork:
    """The graph of an .xml with the constants of its .bin.

    Args:
        budget: bounds what is copied out of it.
    Raises:
        UnreadableFile: not XML, not an IR, too large, with entities, or a constant that does not lie in the .bin.
    """
    if len(xml) > MOST_XML_BYTES:
        raise UnreadableFile(
            f"its graph is a text of {len(xml)} bytes, more than the {MOST_XML_BYTES} that any IR takes"
        )
    parser, events = expat.ParserCreate(), _Parser()
    parser.StartElementHandler, parser.EndElementHandler = events.start, events.end
    parser.StartDoctypeDeclHandler = parser.EntityDeclHandler = events.refuse_declaration
    parser.ExternalEntityRefHandler = parser.UnparsedEntityDeclHandler = events.refuse_declaration
    try:
        parser.Parse(bytes(xml), True)
    except expat.ExpatError as error:
        raise UnreadableFile(f"its graph is no whole XML ({shown(str(error))})") from error
    assert events.network is not None  # else expat found no element
    shared: dict[tuple[int, torch.dtype, tuple[int, ...]], Tensor] = {}
    for layer in events.network.of_kind(CONSTANT):
        layer.tensor = _constant(layer, numbers, budget, shared)
    return events.network


def _constant(
    layer: IrLayer, numbers: memoryview, budget: Budget, shared: dict[tuple[int, torch.dtype, tuple[int, ...]], Tensor]
) -> Tensor:
    """A constant's tensor, its place and shape checked; one place that several name is copied once."""
    message = f"constant {shown(layer.name)}"
    dtype = TYPES.get(layer.attributes.get("element_type", ""))
    if dtype is None:
        kind = shown(layer.attributes.get("element_type", "of no type"))
        raise UnreadableFile(f"{message} is {kind}; expected {', '.join(TYPES)}")
    offset, size = (_whole(layer.attributes, name, message) for name in ("offset", "size"))
    text = layer.attributes.get("shape", "")
    shape = tuple(_number(part.strip(), f"{message}: shape") for part in text.split(",")) if text.strip() else ()
    if len(shape) > MOST_DIMENSIONS:
        raise UnreadableFile(f"{message} has {len(shape)} dimensions")
    if math.prod(shape) * dtype.itemsize != size:
        raise UnreadableFile(f"{message} has shape {list(shape)} in {size} bytes, which do not agree")
    if offset + size > len(numbers):
        raise UnreadableFile(f"{message} lies at bytes {offset} to {offset + size} of a .bin of {len(numbers)} bytes")
    place = (offset, dtype, shape)
    if place not in shared:
        shared[place] = raw_tensor(numbers[offset : offset + size], budget).view(dtype).reshape(shape)
    return shared[place]


def _whole(attributes: dict[str, str], name: str, message: str = "its graph") -> int:
    return _number(attributes.get(name, ""), f"{message}: {name}")


def _number(text: str, message: str) -> int:
    if not re.fullmatch(r"[0-9]{1,15}", text):
        raise UnreadableFile(f"{message} is {shown(text)!r}, expected a whole number")
    return int(text)
