from .bank import TrainedTokens as TrainedTokens
from .config import SoftTokensConfig as SoftTokensConfig
from .contrast import ContrastObjective as ContrastObjective
from .fit import fit_soft_tokens as fit_soft_tokens
from .frozen_denoiser import FrozenDenoiser as FrozenDenoiser
