"""Knowledge as data: releases, chips, checkpoints, variables, choices, settings and rules.

The rows live in ``data/*.yaml``, each with its public source. ``build`` checks them
against ``schema`` and writes ``compiled.json``, which ``load`` reads in milliseconds.
Adding an engine release adds rows, not branches.
"""
