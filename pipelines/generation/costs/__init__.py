"""What a clip will take, before it is made: `plan` of a preset and a machine, `demand` of a prepared call."""
