from .judge import SIZE as SIZE
from .judge import Judge as Judge
