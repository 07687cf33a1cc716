"""The Migrations page in Flower: what is applied, what runs, and what is the matter. It only shows.

    journals, run's record -> known -> making -> watch -> handlers -> page.js

`joining` says how the page gets into Flower; `shown` is all that it shows.
"""
