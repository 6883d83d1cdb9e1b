"""Names of dtypes, so that one may be asked for without importing torch."""

from streamward.errors import ConfigError

DTYPES = ("bfloat16", "float16", "float32")


def dtype_name(dtype: object | None) -> str | None:
    """Return `bfloat16`, `float16` or `float32` for a name or a `torch.dtype`; None for None.

    Raises:
        ConfigError: It is something else.
    """
    if dtype is None:
        return None
    name = str(dtype).removeprefix("torch.")
    if name not in DTYPES:
        raise ConfigError(f"dtype is {name!r}; it must be one of {', '.join(DTYPES)}")
    return name
