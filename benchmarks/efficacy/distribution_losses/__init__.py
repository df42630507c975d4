"""Whether fake-to-fake and fake-to-real make soft tokens better."""
