"""What goes over the wire: request and response models with their descriptions and examples."""
