//! Network: the addresses of this machine, and asking for one.

use ratatui::buffer::Buffer;
use ratatui::layout::Rect;

use super::moved;
use crate::ui::page::{Here, Page, fit, plain};
use crate::ui::state::{Answer, Effect, Effects, Key, KeyHint, Move, Screen, Surroundings, Ticket, World};
use crate::ui::theme::Role;

/// The screen.
#[derive(Clone, Debug, Default)]
pub(crate) struct Network {
    cursor: usize,
    asking: Option<(Ticket, String)>,
    /// What came of asking.
    outcome: Option<Result<String, String>>,
}

impl Screen for Network {
    fn title(&self, _world: &World) -> String {
        "network".to_owned()
    }

    fn keys(&self, world: &World) -> Vec<KeyHint> {
        if world.cards.is_empty() {
            return vec![("F5", "look again")];
        }
        vec![("↑↓", "choose"), ("Enter", "ask for an address (DHCP)"), ("F5", "look again")]
    }

    fn help(&self) -> &'static str {
        "Network\n\
        The network cards of this machine. Enter asks the network for an address by DHCP. Backing up to a disk or stick \
        needs no network.\n\n\
        No cable: nothing is at the other end, or it is switched off.\n\
        No address: the network gave none yet."
    }

    fn key(&mut self, key: Key, world: &World, effects: &mut Effects) -> Move {
        match (key, world.cards.get(self.cursor)) {
            (Key::Enter, _) if world.surroundings == Surroundings::Guest => {
                return Move::Tell(
                    "This machine runs a system of its own, which looks after its network. Addresses are only asked for \
                    when this program was started from its medium."
                        .to_owned(),
                );
            }
            (Key::Enter, Some(card)) if self.asking.is_none() => {
                let name = card.name.clone();
                self.outcome = None;
                self.asking = Some((effects.ask(|ticket| Effect::AskForAddress(ticket, name.clone())), name));
            }
            _ => self.cursor = moved(self.cursor, world.cards.len(), key),
        }
        Move::Stay
    }

    fn answer(&mut self, answer: &Answer, world: &World, effects: &mut Effects) {
        if let (Answer::Address(ticket, outcome), Some((asked, _))) = (answer, &self.asking)
            && ticket == asked
        {
            self.outcome = Some(outcome.clone());
            self.asking = None;
            effects.push(Effect::ReadCards);
        }
        self.cursor = self.cursor.min(world.cards.len().saturating_sub(1));
    }

    fn draw(&self, world: &World, area: Rect, buffer: &mut Buffer) {
        let mut page = Page::new(world.theme, area.width);
        if world.cards.is_empty() {
            page.say(
                Role::Warning,
                "No network card was found, or there is no driver for it on this medium. Disks and sticks work without.",
            );
        }
        for (number, card) in world.cards.iter().enumerate() {
            let link = match card.link {
                Some(true) => "connected",
                Some(false) => "no cable",
                None => "switched off",
            };
            let addresses = if card.addresses.is_empty() { "no address".to_owned() } else { card.addresses.join(", ") };
            let text = format!("{} {} {} {}", fit(&card.name, 12), fit(&card.mac, 18), fit(link, 13), addresses);
            page.choice(Here::at(self.cursor, number), &plain(&text));
        }
        page.gap();
        match (&self.asking, &self.outcome) {
            (Some((_, name)), _) => {
                page.say(Role::Dim, &format!("{} asks for an address; this takes up to half a minute.", plain(name)))
            }
            (None, Some(Ok(address))) => page.say(Role::Good, &format!("It was given {}.", plain(address))),
            (None, Some(Err(error))) => page.say(
                Role::Danger,
                &format!(
                    "No address was given: {}. Is the cable in, and is there a DHCP server? Enter tries again.",
                    plain(error)
                ),
            ),
            (None, None) => {}
        }
        page.draw(0, area, buffer);
    }
}
