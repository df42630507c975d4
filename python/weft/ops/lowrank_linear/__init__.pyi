from .op import lowrank_linear as lowrank_linear
