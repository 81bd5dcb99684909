"""Model-targeted, indiscriminate poisoning: poisons under which a network of the attacker's choice has no gradient left
(Lu, Kamath & Yu 2023), from the choice of that network to the poisons, and the least ratio of poisons that it takes."""
