from .blocks import block_of as block_of
from .blocks import check_blocks as check_blocks
from .blocks import check_served as check_served
from .control import SoftTokens as SoftTokens
from .file import Space as Space
