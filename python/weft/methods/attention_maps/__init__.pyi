from .control import AttentionMaps as AttentionMaps
from .token_maps import Token as Token
from .token_maps import TokenMaps as TokenMaps
