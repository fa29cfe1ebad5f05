//! Network: the addresses of this machine, and asking for one.

use ratatui::buffer::Buffer;
use ratatui::layout::Rect;

use super::{moved, working};
use crate::ui::field::Field;
use crate::ui::page::{Here, Page, fit, plain};
use crate::ui::state::{Answer, Effect, Effects, Key, KeyHint, Move, Screen, Surroundings, Ticket, World};
use crate::ui::theme::Role;

/// The screen.
#[derive(Clone, Debug, Default)]
pub(crate) struct Network {
    cursor: usize,
    /// A fixed address, while it is typed.
    typing: Option<Field>,
    asking: Option<Ticket>,
    /// What came of asking.
    outcome: Option<Result<String, String>>,
}

impl Network {
    fn ask(&mut self, how: String, effects: &mut Effects) {
        self.outcome = None;
        self.asking = Some(effects.ask(|ticket| Effect::SetUpNetwork(ticket, how)));
    }
}

impl Screen for Network {
    fn title(&self, _world: &World) -> String {
        "network".to_owned()
    }

    fn keys(&self, _world: &World) -> Vec<KeyHint> {
        match self.typing {
            Some(_) => vec![("Enter", "set it up")],
            None => vec![("↑↓", "choose"), ("Enter", "do it"), ("F5", "look again")],
        }
    }

    fn help(&self) -> &'static str {
        "Network\n\
        The network cards of this machine, and two ways to give it an address. Backing up to a disk or stick needs no \
        network.\n\n\
        DHCP: the first card that gets an answer from the network takes the address that it is given.\n\
        Fixed: IP/PREFIX, then, after commas, the gateway and the name server, if there are any. The first card with a \
        cable takes it.\n\n\
        No cable: nothing is at the other end, or it is switched off."
    }

    fn is_typing(&self) -> bool {
        self.typing.is_some()
    }

    fn is_moving(&self) -> bool {
        self.asking.is_some()
    }

    fn key(&mut self, key: Key, world: &World, effects: &mut Effects) -> Move {
        if let Some(field) = &mut self.typing {
            if key != Key::Enter {
                field.key(key);
                return Move::Stay;
            }
            let how = field.text().trim().to_owned();
            self.typing = None;
            self.ask(how, effects);
            return Move::Stay;
        }
        match key {
            Key::Enter if world.surroundings == Surroundings::Guest => {
                return Move::Tell(
                    "This machine runs a system of its own, which looks after its network. Addresses are only set up when \
                    this program was started from its medium."
                        .to_owned(),
                );
            }
            Key::Enter if self.asking.is_some() => {}
            Key::Enter if self.cursor == 0 => self.ask("dhcp".to_owned(), effects),
            Key::Enter => self.typing = Some(Field::default()),
            _ => self.cursor = moved(self.cursor, 2, key),
        }
        Move::Stay
    }

    fn back(&mut self, _world: &World, _effects: &mut Effects) -> Move {
        if self.typing.take().is_some() { Move::Stay } else { Move::Back }
    }

    fn answer(&mut self, answer: &Answer, _world: &World, effects: &mut Effects) {
        if let (Answer::Network(ticket, outcome), Some(asked)) = (answer, self.asking)
            && *ticket == asked
        {
            self.outcome = Some(outcome.clone());
            self.asking = None;
            effects.push(Effect::ReadCards);
        }
    }

    fn draw(&self, world: &World, area: Rect, buffer: &mut Buffer) {
        let mut page = Page::new(world.theme, area.width);
        if world.cards.is_empty() {
            page.say(
                Role::Warning,
                "No network card was found, or there is no driver for it on this medium. Disks and sticks work without.",
            );
        }
        for card in &world.cards {
            let link = match card.link {
                Some(true) => "connected",
                Some(false) => "no cable",
                None => "switched off",
            };
            let addresses = if card.addresses.is_empty() { "no address".to_owned() } else { card.addresses.join(", ") };
            let text = format!("{} {} {} {}", fit(&card.name, 12), fit(&card.mac, 18), fit(link, 13), addresses);
            page.cut(Role::Text, &plain(&text));
        }
        page.gap();
        match &self.typing {
            None => {
                page.choice(Here::at(self.cursor, 0), "Ask for an address (DHCP)");
                page.choice(Here::at(self.cursor, 1), "A fixed address ...");
            }
            Some(field) => {
                page.say(Role::Dim, "IP/PREFIX,GATEWAY,DNS, such as 10.0.0.5/24,10.0.0.1,10.0.0.1");
                field.draw(&mut page, world.theme, Here::Yes, "Address", 9);
            }
        }
        page.gap();
        match (self.asking, &self.outcome) {
            (Some(_), _) => {
                page.say(Role::Dim, &working(world, "The network is being set up; this takes up to two minutes"))
            }
            (None, Some(Ok(said))) => page.say(Role::Good, &plain(said)),
            (None, Some(Err(error))) => {
                page.say(Role::Danger, &format!("The network could not be set up: {}.", plain(error)));
                page.say(Role::Text, "Is the cable in? Enter tries again; F5 looks for cards again.");
            }
            (None, None) => {}
        }
        page.draw(0, area, buffer);
    }
}
