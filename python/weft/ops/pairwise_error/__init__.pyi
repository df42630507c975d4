from .op import bounded_logit as bounded_logit
from .op import pairwise_error as pairwise_error
