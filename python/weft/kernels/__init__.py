"""Definitions and Triton kernels, one package an op; their files are in ``kernels/<op>`` at the top of the repository.

Only this file lives here: it makes ``weft.kernels`` a package in every kind of install, and a file of the same name in
``kernels/`` would hide the Hugging Face package ``kernels`` from diffusers.
"""
