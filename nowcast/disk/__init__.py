"""How things lie on disk: durable files, netCDF, and what was read lately."""
