"""Optional packages: one wording for how to install what is missing."""


def needs(extra: str) -> str:
    """The command that installs an extra of pyproject.toml, from an index and from a checkout.

    >>> needs("heif")
    "pip install 'musiq_ref[heif]' (in a checkout: pip install -e '.[heif]')"
    """
    return f"pip install 'musiq_ref[{extra}]' (in a checkout: pip install -e '.[{extra}]')"
