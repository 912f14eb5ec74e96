"""The site: its pages, its reference and its diagrams, made from the repository.

``make docs`` runs it in an environment with Sphinx. ``pages``, ``reference``, ``api`` and ``diagrams`` need
none, so that tests can ask them what the site would show.
"""

__all__: list[str] = []
