"""Tables, figures and the formats of numbers: what it draws is numbers, wherever they come from."""
