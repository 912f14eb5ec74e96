"""Releases: wheels and sdists that are the same byte for byte, checked, with the order of their upload.

``make release`` runs it in an environment with the build backend.
"""

__all__: list[str] = []
