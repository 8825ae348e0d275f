"""Which GPUs there are."""


def gpus_of_torch() -> tuple[int, ...]:
    import torch

    return tuple(range(torch.cuda.device_count())) if torch.cuda.is_available() else ()
