"""In: extracted documents. Out: `judged`, each document's signals and the first rule it breaks.

registry.py runs a recipe's filters in order: language, gopher, c4, fineweb, refinedweb, classifier;
they are built from rules.py (rules, documents), which splits words with words.py or treebank.py.
"""
