"""The part of the training rows that is held out for validation, where there is no file for it."""

from idbert.errors import ConfigError


def check_dev_share(dev_share: float | None, dev: str | None) -> None:
    """Check a share that is held out; None: the default, where there is no file.

    Raises:
        ConfigError: it is out of range, or cannot act beside the file.
    """
    if dev_share is None:
        return
    if dev is not None:
        raise ConfigError(
            f"dev_share={dev_share} cannot act beside the dev file {dev}. Leave one of them out."
        )
    if not 0 <= dev_share < 1:
        raise ConfigError(f"dev_share is {dev_share}; choose from 0 to below 1.")
