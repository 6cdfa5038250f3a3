"""Layers that have no Lipschitz constant, or none that weights tell; and what to ask instead."""

from __future__ import annotations

from bigspec.errors import ArgumentError

__all__ = ["REFUSED", "REFUSED_NODES", "refuse"]

DISCONTINUOUS = "it jumps, so no multiple of the distance of two inputs bounds that of the outputs"

REFUSED = {
    "squared_relu": "the slope of relu(x)^2 is 2 x, which has no bound. On inputs no larger than R "
    "it is at most 2 R: give 'relu' in its place, and multiply the constant by 2 R",
    "attention": "dot-product attention has no Lipschitz constant on all of space (Kim, "
    "Papamakarios and Mnih, ICML 2021). What the weights do tell, per head: "
    "bigspec.norm(Wq.H @ Wk) / sqrt(d), how fast scores grow, and bigspec.norm(Wo @ Wv), how far a "
    "change of one value travels",
    "gated_product": "a product of two branches (GLU, SwiGLU, GEGLU) grows like a square, so its "
    "slope has no bound. Each branch by itself has one: give it as a stack of its own",
    "log_softmax": "its constant depends on the number of classes and is attained at one-hot "
    "outputs; the map before it says more: leave it away",
    "threshold": DISCONTINUOUS,
    "hard_shrink": DISCONTINUOUS,
    "sign": DISCONTINUOUS,
    "square": "the slope of x^2 is 2 x, which has no bound",
    "exp": "the slope of exp(x) has no bound",
    "instance_norm": "its statistics are those of the input and its constant is "
    "epsilon^(-1/2) a channel: give ('layer_norm', epsilon, gamma, beta, size) with size numbers a "
    "channel",
    "group_norm": "its statistics are those of the input and its constant is epsilon^(-1/2) a "
    "group: give ('layer_norm', {'epsilon': .., 'size': numbers in a group}), ('scale', weights)",
}
"""Names, and the reasons."""

RECURRENT = (
    "a recurrence applies its matrices once a step and multiplies its state by gates that depend "
    "on the input, so how far it stretches depends on the length of the sequence and the size of "
    "the state. What its weights do tell: the norm of each gate's matrix, which bigspec scan gives "
    "row by row. Bound the parts before and after it, with begin and end"
)
BY_ITSELF = (
    "by itself its slope has no bound, and it is no part of a layer norm, an RMS norm, or of gelu, "
    "silu, mish or hard swish with their constants; bound the parts before and after it, with "
    "begin and end"
)
REFUSED_NODES = {
    **dict.fromkeys(("GRU", "LSTM", "RNN"), RECURRENT),
    **dict.fromkeys(("Exp", "Log", "Pow", "Reciprocal", "Sqrt"), BY_ITSELF),
}
"""Types of ONNX nodes, and the reasons."""

ALIASES = {
    "relu2": "squared_relu",
    "relu_squared": "squared_relu",
    "self_attention": "attention",
    "multi_head_attention": "attention",
    "multihead_attention": "attention",
    "glu": "gated_product",
    "swiglu": "gated_product",
    "geglu": "gated_product",
    "reglu": "gated_product",
    "hardshrink": "hard_shrink",
    "heaviside": "sign",
}


def refuse(name: str, where: str) -> None:
    """Raise if a layer of this name has no bound.

    Raises
    ------
    ArgumentError
        With the reason, and what can be said in its place.
    """
    reason = REFUSED.get(ALIASES.get(name, name))
    if reason is not None:
        msg = f"{where}: {name!r} cannot be bounded: {reason}"
        raise ArgumentError(msg)
