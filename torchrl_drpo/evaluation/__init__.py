"""What a policy is worth: ranking and simulator metrics."""
