"""BERT's tokenizer of characters."""

from examples import make_encoder


def test_tokenizer_of_characters():
    tokenizer = make_encoder.char_tokenizer(["北", "京", "a", "b"])
    rows = tokenizer.tokenize(["北京ab", "ba天"]).to_list()
    tokens = [[tokenizer.id_to_token(i) for i in row] for row in rows]
    assert tokens == [["北", "京", "a", "##b"], ["b", "##a", "[UNK]"]]
