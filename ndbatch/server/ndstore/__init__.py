"""ndstore over the volumes of a service: tokens, info, cutouts, resources, propagation, pictures, metadata, RAMON objects."""

from ndbatch.server.ndstore.routes import routes

__all__ = ["routes"]
