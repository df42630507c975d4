from benchmarks.efficacy.distribution_losses.experiment import main

main()
