"""The shape of the adapter."""

import msgspec

from cotdistill.bounds import Count, Dropout


class Lora(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """LoRA's shape (Hu et al. 2021). ``targets`` are last names of linear layers; empty means the default.

    ``use_dora`` trains the length of each weight column apart from its direction (Liu et al. 2024); ``use_rslora``
    scales by alpha / sqrt(r) instead of alpha / r (Kalajdzievski 2023), which a large r needs.
    """

    r: Count = 8
    alpha: Count = 16
    dropout: Dropout = 0.05
    targets: tuple[str, ...] = ()
    use_dora: bool = False
    use_rslora: bool = False
