"""How the embedded pair `models/emoji` was made: data, autoencoder, large and small transformer, export."""
