"""BOSS over the volumes of a service: collections, experiments, channels, cutouts, metadata, objects, levels, pictures."""

from ndbatch.server.boss.routes import routes

__all__ = ["routes"]
