"""From integrated reflections to merged intensities: cells, scales, error model, statistics."""
