"""What fake-to-fake and fake-to-real do to a GAN."""
