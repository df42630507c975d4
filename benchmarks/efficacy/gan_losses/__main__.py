from benchmarks.efficacy.gan_losses.experiment import main

main()
