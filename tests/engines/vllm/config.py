from enum import Enum


class CUDAGraphMode(Enum):
    NONE = 0
    PIECEWISE = 1
    FULL = 2
    FULL_DECODE_ONLY = 3
    FULL_AND_PIECEWISE = 4


class CompilationConfig:
    def __init__(self, mode: str, sizes=(1, 2, 4, 8)) -> None:
        self.cudagraph_mode = CUDAGraphMode[mode]
        self.sizes = sorted(sizes, reverse=True)

    def modes(self) -> list[CUDAGraphMode]:
        """Return the modes of the graphs to capture."""
        return {
            "NONE": [],
            "PIECEWISE": [CUDAGraphMode.PIECEWISE],
            "FULL": [CUDAGraphMode.FULL],
            "FULL_DECODE_ONLY": [CUDAGraphMode.FULL],
            "FULL_AND_PIECEWISE": [CUDAGraphMode.PIECEWISE, CUDAGraphMode.FULL],
        }[self.cudagraph_mode.name]
