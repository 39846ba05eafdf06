"""Pictures of reflectivity, made with Pillow alone: maps to publish, several side by side, overlays."""

from nowcast.rendering.maps import Panel, render_field, render_map, render_panels

__all__ = ["Panel", "render_field", "render_map", "render_panels"]
