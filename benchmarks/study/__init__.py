"""What merging costs on real models and real data: ``make study``."""
