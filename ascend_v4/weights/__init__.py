"""Weights: the listing of a hub as a manifest, the transfer, and the check afterwards."""
