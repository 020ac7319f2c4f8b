"""Pure Python on one document or one Arrow batch: no Spark, no torch."""
