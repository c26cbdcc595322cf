"""Makes the model known by a name: pytest reads this file, and so do the commands where a name is not known to them."""

from mymodel import MyModel, MyProcessor

from stagebench import Registration, register_model

SHAPES = {"text_config": {"hidden_size": 1024, "num_hidden_layers": 8, "vocab_size": 32000}}
register_model(Registration(name="mine", network=MyModel, config=SHAPES, processor=MyProcessor))
