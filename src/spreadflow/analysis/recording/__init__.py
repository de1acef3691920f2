"""What recorded images say of the detector that recorded them: gain, noise, unusable pixels."""
