"""What every package uses: errors, atomic files, progress, results, metrics, wording, charts."""
