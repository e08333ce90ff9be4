"""ndstore (NeuroData, formerly OCP): channels as volumes, over HTTP."""
