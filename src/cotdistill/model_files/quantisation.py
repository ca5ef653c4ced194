"""Quantisation: in which number format each tensor of a GGUF is stored, and the tensor in that format.

    q4_k_m of a Llama with 30 blocks: blk.0.attn_v.weight -> Q6_K, blk.3.attn_v.weight -> Q4_K, norms -> F32

The mixture called Q4_K_M is llama.cpp's: 4 bits, 6 where errors hurt most. Its formats are computed by the
quantizer inside xllamacpp, which is llama.cpp's own; the gguf library computes f16 and q8_0.
"""

import ctypes
from typing import TYPE_CHECKING, Any, Literal

from cotdistill.errors import SetupError

if TYPE_CHECKING:
    import numpy as np
    from gguf import GGMLQuantizationType

Quant = Literal["q8_0", "q4_k_m", "f16"]
K_BLOCK, BLOCK = 256, 32
"""Weights that share a scale in k-quants, and in the older types. A row holds whole blocks."""


def tensor_type(name: str, shape: tuple[int, ...], quant: Quant, *, blocks: int, tied: bool) -> "GGMLQuantizationType":
    """The format of the tensor that a GGUF calls ``name``; ``tied``: the embeddings are the output head too."""
    from gguf import GGMLQuantizationType as Type

    if len(shape) == 1:  # norms and biases: few numbers, and llama.cpp adds them in fp32
        return Type.F32
    columns = shape[-1]
    if quant == "f16" or columns % BLOCK:
        return Type.F16
    if quant == "q8_0":
        return Type.Q8_0
    head = name == "output.weight" or (tied and name == "token_embd.weight")
    precise = head or (name.endswith(("attn_v.weight", "ffn_down.weight")) and _sensitive(name, blocks))
    if columns % K_BLOCK:
        return Type.Q8_0 if precise else Type.Q5_0
    return Type.Q6_K if precise else Type.Q4_K


def quantised(weights: "np.ndarray[Any, Any]", kind: "GGMLQuantizationType") -> "np.ndarray[Any, Any]":
    """``weights`` (float32, rows x columns) in the format ``kind``; raises ``SetupError`` where a number is too
    large for it, or where xllamacpp comes without its quantizer."""
    import numpy as np
    from gguf import GGMLQuantizationType as Type
    from gguf import quants

    if kind in (Type.Q4_K, Type.Q6_K, Type.Q5_0):  # all of q4_k_m but its Q8_0
        return _by_llama_cpp(weights, kind)
    with np.errstate(over="ignore"):
        packed: np.ndarray[Any, Any] = quants.quantize(weights, kind)
    if kind == Type.F16 and not np.isfinite(packed).all():
        raise SetupError("a weight is too large for f16; use --quant q8_0")
    return packed


def require_quantizer(quant: Quant) -> None:
    """Raise ``SetupError`` before any work if this build of xllamacpp cannot write the format."""
    if quant == "q4_k_m":
        _quantizer()


def _sensitive(name: str, blocks: int) -> bool:
    """The first and last eighth of the blocks, and every third in between."""
    number, eighth = int(name.split(".")[1]), blocks // 8
    return number < eighth or number >= 7 * blocks // 8 or (number - eighth) % 3 == 2


def _by_llama_cpp(weights: "np.ndarray[Any, Any]", kind: "GGMLQuantizationType") -> "np.ndarray[Any, Any]":
    import numpy as np
    from gguf import quant_shape_to_byte_shape

    weights = np.ascontiguousarray(weights, dtype=np.float32)
    packed = np.zeros(quant_shape_to_byte_shape(weights.shape, kind), dtype=np.uint8)
    rows, columns = weights.shape
    written = _quantizer()(int(kind), weights.ctypes.data, packed.ctypes.data, 0, rows, columns, None)
    if written != packed.nbytes:
        raise SetupError(f"llama.cpp's quantizer wrote {written} bytes instead of {packed.nbytes}; use --quant q8_0")
    return packed


def _quantizer() -> Any:
    """``ggml_quantize_chunk(type, from, to, first, rows, columns, importance)`` of the library xllamacpp is."""
    import xllamacpp

    try:
        function = ctypes.CDLL(xllamacpp.xllamacpp.__file__).ggml_quantize_chunk
    except (OSError, AttributeError) as error:
        raise SetupError("q4_k_m needs llama.cpp's quantizer, which this xllamacpp lacks; q8_0 and f16 work") from error
    function.restype = ctypes.c_size_t
    function.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, *[ctypes.c_int64] * 3, ctypes.c_void_p]
    return function
