"""The stages of the workflow: each rank reads its share of the data, computes, and writes."""
