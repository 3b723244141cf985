"""What a user can ask for. Operations plan; they start nothing and read nothing."""
