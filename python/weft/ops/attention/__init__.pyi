from .edit import Edit as Edit
from .op import attention as attention
