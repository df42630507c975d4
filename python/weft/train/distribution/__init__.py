"""Distribution-sensitive losses: fake-to-fake and fake-to-real."""
