"""The names that the library peft gives to what it puts beside a trunk's layers."""

#: A part of the names of low-rank factors, and the name of the buffer in which a trunk keeps their scaling.
FACTOR, SCALING = ".lora_", "lora_scaling"


def is_factor(name: str) -> bool:
    """Return whether a tensor's name is that of a factor or of a magnitude."""
    return FACTOR in name and not name.endswith(SCALING)


def owner_of(name: str) -> str:
    """Return the name of the layer that a factor stands beside."""
    return name.rpartition(FACTOR)[0]
