"""TensorBoard: `tb/` in the run folder."""

from typing import Any

from hanbit.common.run_folder import RunFolder


class TensorBoard:
    id = ""

    def __init__(self, writer: Any) -> None:
        self._writer = writer

    def write(self, numbers: dict[str, float], step: int) -> None:
        for name, number in numbers.items():
            self._writer.add_scalar(name, number, step)

    def close(self) -> None:
        self._writer.close()


def start_tensorboard(folder: RunFolder, resumed_step: int) -> TensorBoard:
    from torch.utils.tensorboard import SummaryWriter

    return TensorBoard(SummaryWriter(str(folder.tensorboard), purge_step=resumed_step + 1))
